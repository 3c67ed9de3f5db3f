"""What tests share and authors of workflows do not need: clusters, faults, installations, scenes, judges of truth."""
