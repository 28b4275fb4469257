"""From questions in text to answers in text."""
