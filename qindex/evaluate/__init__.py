"""Judging: measures of rankings, judged collections, and quantizers side by side."""
