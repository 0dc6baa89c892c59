"""The planning app: pages that show what ``import advisor`` answers."""
