"""The engines, one file each; none imports another."""
