"""Guests that tests boot, built from Debian packages. Not part of the program."""
