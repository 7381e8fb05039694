"""From the values of a run to what people read: pictures, Markdown and the model card."""
