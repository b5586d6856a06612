"The laboratory: long experiments, each a command, on the one harness of chapter 21."
