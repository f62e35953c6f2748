"""Work beside the steady load, one kind a module: the work, its promise, its scenarios.

A module here has a subclass of ``chaos.workload.Workload``, and in ``SCENARIOS`` the scenarios that
exist for its sake. ``chaos.scenarios.all_scenarios`` finds them by folder.
"""
