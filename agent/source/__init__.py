"""Where documents come from, and how their text becomes what is wanted."""
