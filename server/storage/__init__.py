"""Files and database of the server: versions, history, and the lease of the state folder."""
