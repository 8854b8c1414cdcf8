"""Training.

    task             `Task`, what is trained; `tasks/` has one module per model, with its config and its batch
    config           `TrainerConfig`, how a task is trained
    plan             the nouns of a run: `Source`, `Plan`, `Progress`, `Checkpoints`
    loop             one worker's steps, logs, validations and checkpoints
    ray_trainer      runs the loop on a Ray cluster
    local_trainer    runs the loop in this process

A step: `data_order` selects the rows of a worker, `batch_loader` collates them in background threads
(`Task.collate`), `loop` computes the loss (`Task.loss`), sums gradients over micro-batches and workers,
checks them (`finite_check`), updates the weights (`steps`), and logs (`step_meter`, `run_log`).
"""
