"""Pictures of a study, drawn without a screen."""
