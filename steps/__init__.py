"""The pipeline's steps, one thin file each: unpack, call the library, log."""
