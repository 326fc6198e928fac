"""illegible_names live_state rewound Tests of a whole server within the tests' process."""
