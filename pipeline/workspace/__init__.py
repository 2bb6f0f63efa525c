"""What the user works with: parameters, presets, the schedule, status, forecasts and checks of the setup."""
