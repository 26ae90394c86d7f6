"""What the crash tools share: workloads with promises, a recording disk, and a look afterwards."""
