"""The host's side: where things lie, which processes run, who may be reached how."""
