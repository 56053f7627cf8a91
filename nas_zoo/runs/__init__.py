"""What every long program shares: settings, checkpoints, log, stopping, processes, schedules."""
