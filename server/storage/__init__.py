"""What outlives the server process: versions, history and the lease on the state folder."""
