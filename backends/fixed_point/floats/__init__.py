"""Float operators between integer ones: the steps, what each computes, and how a walk over regions makes them."""
