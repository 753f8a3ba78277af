"""What the paper reports: Table 1, the accuracies of its text, and the forms compared.

Tahir, Tan and Babaagba, section 4. Partitions 1 to 5 there are clients 0 to 4 here.
"""

FORMS = ("update", "parameters", "parameters_nearest")
SCALES = tuple(round(0.05 * step, 2) for step in range(21))
RETRAINED_CLIENTS = 4  # Figs 6 and 7 show clients 1 to 4 of the paper, ids 0 to 3

# The paper's numbers. Table 1: one entry per partition 1 to 5, our clients 0 to 4.
PAPER_CENTRAL_TRAIN, PAPER_CENTRAL_TEST, PAPER_FEDERATED_TEST = 0.9954, 0.9804, 0.9801
PAPER_LOCAL = (0.9428, 0.9539, 0.9444, 0.9483, 0.9604)
PAPER_FEDERATED = (0.9567, 0.9617, 0.9572, 0.9589, 0.9665)
PAPER_REMOVED = (
    (0.9183, 0.9261, 0.9089, 0.9167, 0.9180),
    (0.9306, 0.9444, 0.9200, 0.9239, 0.9291),
    (0.9067, 0.9156, 0.8900, 0.9117, 0.9090),
    (0.8639, 0.8717, 0.8500, 0.8678, 0.8638),
    (0.7183, 0.7267, 0.7228, 0.7167, 0.7166),
)
PAPER_RETRAINED = (
    (0.9344, 0.9606),
    (0.9461, 0.9633),
    (0.9250, 0.9594),
    (0.9283, 0.9550),
)  # before and after ten epochs on the removed data
