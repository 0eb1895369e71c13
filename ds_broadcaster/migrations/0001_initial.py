"""The permissions of the inspector. Nothing changes in the database: post_migrate makes them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = ()

    operations = (
        migrations.CreateModel(
            name="Inspector",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"))
            ],
            options={
                "permissions": (
                    ("send", "Can send to channels"),
                    ("disconnect", "Can disconnect users and kill channels"),
                ),
                "base_manager_name": "objects",
                "managed": False,
                "default_permissions": (),
            },
        ),
    )
