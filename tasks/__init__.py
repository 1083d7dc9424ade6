"""SeqIO tasks: corpora, vocabularies, objectives and their registrations."""
