"""Comparing ways of pre-training: many runs, paired by seed and by batch, under equal budgets, on the same tasks.

Inside, a module imports only from those above it: `comparison_recipe` (the YAML file), `arms` (an arm's pre-training
recipe; how it masks; whether two arms are matched), `held_out` (selection and confirmation), `flops` and `step_costs`
(what an update costs, counted and measured), `plan` (which runs there are), `folder` (files and locks of a
comparison), `refit` (cross-entropy with refitted output biases), `tasks` (downstream tasks), `running` (one run),
`confirmation` (the reading at the end), `study` (all results as plain data), `differences` (paired), `cells`
and `tables`, `plot`, `comparing` (all of it in order).
"""
