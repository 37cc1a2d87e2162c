"""The detector process: its event loop, its maintenance thread, its status pages and its trainer process."""
