"""Answers as text: tables that fit a terminal, labelled lines, and the formats that machines read."""
