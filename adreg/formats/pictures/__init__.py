"""Pictures as files, SVG and PNG: what is drawn is data, and says nothing of what it shows."""
