"""Reading and mixing video: decoders, clips, transforms, sources and the loader."""
