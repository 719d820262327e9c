"""A third task, outside of vit: an image -> one number. Importing it adds its row to the table of tasks."""

from vit.tasks.table import Row, register

register(Row("regression", "tests.regression", ("regress",)))
