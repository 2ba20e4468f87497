"""Making training sets out of large lists of videos."""
