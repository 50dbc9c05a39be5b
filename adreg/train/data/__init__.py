"""From files to examples: forms, templates, masks, token ids, and a report on every row. No torch."""
