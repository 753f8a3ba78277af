"""The paper, whole: `experiment=paper` measures it, answers it and shows it."""
