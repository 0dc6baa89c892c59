"""Questions asked by other programs: over HTTP (``advisor serve``) and by agents (``advisor mcp``). No logic of its own."""
