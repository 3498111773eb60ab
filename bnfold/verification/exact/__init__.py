"""Two questions with float64 as the measure: is the plan right, and is the result as accurate as the original?"""
