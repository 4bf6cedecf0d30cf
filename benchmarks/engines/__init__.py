"""One step of one network in every engine and form: which is fastest, and what each form costs."""
