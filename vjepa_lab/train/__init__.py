"""Training runs: everything that knows lightning, and the pure functions of the step that it uses."""
