"""What keeps a registry whole: it is checked, cleaned, saved and brought back. Adapters are only rows and blobs here."""
