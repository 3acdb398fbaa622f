"""What a document may say: the shapes of `kind: vm` and `kind: images`, and the spec that they resolve to."""
