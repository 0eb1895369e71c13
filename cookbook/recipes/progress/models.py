from django.conf import settings
from django.db import models


class Job(models.Model):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="jobs")
    total = models.PositiveIntegerField(default=40)
    done = models.PositiveIntegerField(default=0)
    result = models.CharField(max_length=200, blank=True)

    def __str__(self):
        return f"Job {self.pk} of {self.owner}"

    @property
    def signals(self):
        """Return the signals of the progress bar."""
        return {"percent": round(100 * self.done / self.total)}
