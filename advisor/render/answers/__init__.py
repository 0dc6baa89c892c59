"""Answers as documents, one module an answer."""
