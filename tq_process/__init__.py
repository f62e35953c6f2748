"""What every process of tq needs of its operating system: streams, descriptors, ports, signals."""
