"""What presence shows of a user beside the number of connections."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("ds_broadcaster_postgres", "0002_number_at_commit"),)
    operations = (
        migrations.AddField("holding", "since", models.FloatField(db_default=0.0)),
        migrations.AddField("holding", "is_away", models.BooleanField(db_default=False)),
        migrations.AddField("holding", "tabs", models.TextField(db_default="")),
    )
