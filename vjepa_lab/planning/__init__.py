"""Planning with a world model: action sequences of low energy, and pictures of what the energy looks like."""
