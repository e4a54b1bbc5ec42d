"""The composition: settings, URLs and the Celery app. No logic of its own."""
