"""One click command a DVC stage: open files, call one step, close. No logic lives here."""
