"""From text to vectors: passages, sentence encoders, and corpora encoded to disk."""
