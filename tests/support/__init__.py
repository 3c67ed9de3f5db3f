"""What tests share and authors of workflows do not need: clusters, faults, whole installations, scenes, judges of truth."""
