"""What users hold on to, pinned: see ``snapshots`` for how a change of it is made on purpose."""
