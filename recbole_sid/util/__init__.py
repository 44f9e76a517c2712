"""What every part may use and that knows none of them: files, reading within bounds, progress, hardware, numbers."""
