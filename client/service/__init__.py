"""The detector process: its event loop, its notices, its status pages and its trainer process."""
