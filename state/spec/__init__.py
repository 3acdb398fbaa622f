"""What a document may say: the shapes of each kind, and the specs that they resolve to."""
