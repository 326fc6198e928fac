"""How many changes there were: by table, action and time, with their delays, alerts, and the time before the start."""
