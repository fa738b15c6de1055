"""Reports of a run: one self-contained HTML page, and its tables as Markdown and CSV."""
