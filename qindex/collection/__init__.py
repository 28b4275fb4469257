"""Collections: passages of text and their index in one folder, replaced as a whole or not at all."""
