"""The parts of the crash tools: workloads with promises, a recording disk, and checks."""
